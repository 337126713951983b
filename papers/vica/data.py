"""What ViCA is trained on: pictures with questions made here, or conversations as LLaVA's files have them.

    ScenePictures   generated scenes and easy-VQA, for the small LLaVA (common/vision/scene_rows.py)
    Conversations   LLaVA-1.5's files: template "plain" is stage 1, "v1" stage 2 (common/vision/conversations.py)

Nothing in them is the paper's own but one choice, which matters to ViCA more than to others: a line break stands behind the
picture in stage 1 (README, deviation D7), because no visual token computes anything that could predict a caption's first word.
"""

from common.training.steps import StepData
from common.vision.conversations import Conversations
from common.vision.scene_rows import ScenePictures

__all__ = ["Conversations", "ScenePictures", "StepData"]  # the data modules that a config may name, and what they are
