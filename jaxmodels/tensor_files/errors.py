"""The one error that a checkpoint file gives, and the advice it ends with."""

import os

from jaxmodels.wording import brief, cut

DOWNLOAD_AGAIN = "the file is damaged or incomplete: download it again"
SAVE_AGAIN = "save the weights again, as safetensors or as a plain state dict: torch.save(model.state_dict(), path)"


MAX_MESSAGE = 500  # characters: a hostile file must not fill anybody's screen


class TensorFileError(ValueError):
    """A checkpoint file that is broken, cut short, hostile or of an unsupported kind.

    `path`, `expected`, `found` and `remedy` say the same as the message, piece by piece.
    """

    def __init__(self, path: str | os.PathLike, expected: str, found: str, remedy: str = DOWNLOAD_AGAIN):
        super().__init__(path, expected, found, remedy)
        self.path, self.expected, self.found, self.remedy = path, expected, found, remedy

    def __str__(self) -> str:
        text = f"{self.path}: expected {self.expected}, found {self.found}; {self.remedy}"
        if len(text) <= MAX_MESSAGE:
            return text
        path = str(self.path)
        path = path if len(path) <= 120 else f"...{path[-117:]}"
        return f"{path}: expected {cut(self.expected)}, found {cut(self.found)}; {cut(self.remedy, 110)}"


class Malformed(Exception):
    """What the parsers raise: they see bytes and offsets, and only the caller knows which file they came from."""

    def __init__(self, expected: str, found: str, remedy: str = DOWNLOAD_AGAIN):
        super().__init__(expected, found, remedy)
        self.expected, self.found, self.remedy = expected, found, remedy

    def at(self, path: str | os.PathLike) -> TensorFileError:
        return TensorFileError(path, self.expected, self.found, self.remedy)


def described(value: object) -> str:
    """A value from the file for an error message: containers and objects by their type only, for of a pickle's their
    repr may be longer than any file."""
    return brief(value) if isinstance(value, str | int | float | bytes | None) else f"a {type(value).__name__}"
