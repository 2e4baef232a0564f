"""Commands as the tests give them: of the small network, whose classes and speed they know."""

import typer

from bcos_zoo import cli

SMALL = "bcos_resnet20.cifar10"
TAKE_A_MODEL = ("predict", "explain", "units", "evaluate", "finetune")


def of_the_small_one(arguments: list[str]) -> list[str]:
    """The command with `--model bcos_resnet20.cifar10`, unless it names one or goes on with a run."""
    if arguments[:1] and arguments[0] in TAKE_A_MODEL and not {"--model", "--resume"} & set(arguments):
        return [arguments[0], "--model", SMALL, *arguments[1:]]
    return arguments


def error_line(err):
    lines = err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def verbs():
    """Every verb by its name, with its options."""
    found = {}
    for name, command in typer.main.get_command(cli.app).commands.items():
        for inner, one in (getattr(command, "commands", None) or {"": command}).items():
            options = {parameter.opts[0] for parameter in one.params if parameter.opts[0].startswith("-")}
            found[f"{name} {inner}".strip()] = options - {"--help"}
    return found
