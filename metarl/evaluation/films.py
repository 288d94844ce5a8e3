"""Files of films: mp4 and gif files, and folders of single pictures."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from metarl.errors import UserError, bad_option
from metarl.files import is_leftover, replacing, write_whole
from metarl.tasks.canvas import Frame

FRAMES_PER_SECOND = 25.0
"""The rate of mp4 files."""


class Shot(NamedTuple):
    """A picture of a film."""

    frame: Frame
    """The picture, ``[height, width, 3]``."""
    seconds: float
    """How long the film shows it."""
    name: str
    """The name of the picture's file in a folder, without suffix."""


@runtime_checkable
class Film(Protocol):
    """Something that is filmed into."""

    def add(self, shot: Shot) -> None:
        """Append a picture."""


@contextmanager
def open_films(paths: Sequence[Path], option: str) -> Iterator[Film]:
    """Yield a film that is written to every path: ``.mp4``, ``.gif`` or the name of a folder.

    Files appear whole at the end of the body, in the place of older ones, and only if it did not
    fail. A folder gets a PNG file for every picture.

    Args:
        paths: where to write.
        option: the option that names the paths, for messages.

    Raises:
        UserError: if a path cannot be a film, or a package is missing that writes it; before the
            body.
    """
    for path in paths:
        if path.suffix not in (".mp4", ".gif", ""):
            raise bad_option(option, str(path), "a name that ends with .mp4 or .gif, or a folder")
        if path.suffix and path.is_dir():
            raise bad_option(option, str(path), "a file, which is no folder yet")
        new = not path.exists() or (path.is_dir() and all(map(is_leftover, path.iterdir())))
        if not path.suffix and not new:
            raise bad_option(option, str(path), "a new or empty folder for the pictures")
    if any(path.suffix == ".mp4" for path in paths):
        mp4_writer(option)
    with ExitStack() as stack:
        films = [stack.enter_context(_open(path, option)) for path in paths]
        yield _Several(films)


class _Several:
    """Films that get the same pictures."""

    def __init__(self, films: Sequence[Film]) -> None:
        self._films = films

    def add(self, shot: Shot) -> None:
        for film in self._films:
            film.add(shot)


@contextmanager
def _open(path: Path, option: str) -> Iterator[Film]:
    (path if not path.suffix else path.parent).mkdir(parents=True, exist_ok=True)
    if not path.suffix:
        yield _Pictures(path)
    elif path.suffix == ".gif":
        gif = _Gif()
        yield gif
        gif.save(path)
    else:
        with replacing(path) as temporary, closing(_Mp4(temporary, option)) as video:
            yield video


class _Pictures:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, shot: Shot) -> None:
        Image.fromarray(shot.frame).save(self._folder / f"{shot.name}.png")


class _Gif:
    """Keeps a byte for every pixel until the file is written, which must be done at once."""

    def __init__(self) -> None:
        self._images: list[Image.Image] = []
        self._milliseconds: list[int] = []

    def add(self, shot: Shot) -> None:
        image = Image.fromarray(shot.frame)
        # Unlike Pillow's default method, this one keeps small things such as goals in their color.
        how = Image.Quantize.FASTOCTREE
        self._images.append(image.quantize(256, method=how, dither=Image.Dither.NONE))
        # A gif counts hundredths of a second, and viewers slow down what is faster than two.
        self._milliseconds.append(max(20, round(100 * shot.seconds) * 10))

    def save(self, path: Path) -> None:
        if not self._images:
            return
        data, (first, *others) = io.BytesIO(), self._images
        options = {"append_images": others, "duration": self._milliseconds, "loop": 0}
        first.save(data, "GIF", save_all=True, disposal=1, **options)
        write_whole(path, data.getvalue())


class _Mp4:
    """Sends pictures, which all have one size, to the program ffmpeg."""

    def __init__(self, path: Path, option: str) -> None:
        self._path, self._write_frames = path, mp4_writer(option)
        self._stream: Any = None
        self._owed = 0.0

    def add(self, shot: Shot) -> None:
        frame = np.ascontiguousarray(_even(shot.frame))
        if self._stream is None:
            height, width, _ = frame.shape
            self._stream = self._write_frames(
                str(self._path),
                (width, height),
                fps=FRAMES_PER_SECOND,
                macro_block_size=1,
                output_params=["-f", "mp4"],  # The name of an unfinished file does not say it.
            )
            self._stream.send(None)
        self._owed += shot.seconds * FRAMES_PER_SECOND
        number = round(self._owed)
        self._owed -= number
        for _ in range(number):
            self._stream.send(frame)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _even(frame: Frame) -> Frame:
    """Return a picture whose sides have an even number of pixels, as mp4 files need."""
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def mp4_writer(option: str) -> Any:
    """Return the function that opens a stream of frames into an mp4 file.

    Raises:
        UserError: if the package that writes mp4 files is missing.
    """
    try:
        return importlib.import_module("imageio_ffmpeg").write_frames
    except ImportError as error:
        raise UserError(
            f"{option}: {error}; accepted: pip install 'metarl-toolkit[video]' for mp4 files"
        ) from error
