"""Commands as the tests give them: of the small network, whose classes and speed they know."""

SMALL = "bcos_resnet20.cifar10"
TAKE_A_MODEL = ("predict", "explain", "units", "evaluate", "finetune")


def of_the_small_one(arguments: list[str]) -> list[str]:
    """The command with `--model bcos_resnet20.cifar10`, unless it names one or goes on with a run."""
    if arguments[:1] and arguments[0] in TAKE_A_MODEL and not {"--model", "--resume"} & set(arguments):
        return [arguments[0], "--model", SMALL, *arguments[1:]]
    return arguments
