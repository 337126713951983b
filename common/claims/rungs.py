"""How large a run is: the rungs that a user can name, and the command that a run goes by.

Without imports, so that what needs nothing else (the doctor, the run over all papers) starts at once.
"""

# What RUNG= may be, and the claims that it runs: "analytic" is part of every run. "smoke" walks the default run at tiny
# sizes and records nothing.
RUNGS = {
    "smoke": ("analytic", "cpu-small"),
    "analytic": ("analytic",),
    "cpu": ("analytic", "cpu-small"),
    "gpu": ("analytic", "gpu-random-weights"),
    "paper": ("analytic", "paper-scale"),
}
# Of an experiment's rung the rung of the claims that it measures.
RUNGS_OF = {"analytic": "analytic", "cpu": "cpu-small", "gpu": "gpu-random-weights", "paper": "paper-scale"}
LONG_NAMES = {"cpu-small": "cpu", "gpu-random-weights": "gpu", "paper-scale": "paper"}


def rung_of(text: str) -> str:
    """The rung that a user names, in short or in full. Raises argparse.ArgumentTypeError, which names all of them."""
    if (rung := LONG_NAMES.get(text, text)) not in RUNGS:
        import argparse

        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {', '.join([*RUNGS, *LONG_NAMES])})")
    return rung


def make_command(paper: str, rung: str, only: str | None = None, seeds: str | None = None) -> str:
    """What a user types, and a record's run.command says."""
    settings = {"RUNG": rung if rung != "cpu" else "", "ONLY": only, "SEEDS": seeds if rung == "cpu" else ""}
    return " ".join([f"make reproduce-{paper}", *(f"{name}={value}" for name, value in settings.items() if value)])
