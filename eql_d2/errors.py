"""The one exception type for mistakes that a user can mend."""


class UserError(Exception):
    """A mistake in the input, told in one sentence that names what is wrong and the way out.

    The tools print the sentence alone, without a traceback. An error raised inside a DataLoader worker
    arrives with the worker's traceback as its text; only the sentence is kept.

    Args:
        message: the sentence.
    """

    def __init__(self, message: str) -> None:
        sentence = str(message).rsplit(f"{type(self).__name__}: ", 1)[-1]
        super().__init__(" ".join(line.strip() for line in sentence.splitlines()).strip())
