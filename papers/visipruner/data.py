"""What a LLaVA with stages (stages.py) is trained on: the same rows as its dense sibling.

    ScenePictures   generated scenes and easy-VQA, for the small LLaVA (common/vision/scene_rows.py)
    Conversations   LLaVA-1.5's files: template "plain" is stage 1, "v1" stage 2 (common/vision/conversations.py)

VisiPruner itself trains nothing.
"""

from common.training.steps import StepData
from common.vision.conversations import Conversations
from common.vision.scene_rows import ScenePictures

__all__ = ["Conversations", "ScenePictures", "StepData"]  # the data modules that a config may name, and what they are
