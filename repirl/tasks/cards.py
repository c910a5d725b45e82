"""What a benchmark card says of its data: the block `metadata: repirl:` of a task file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from repirl.config import Config
from repirl.errors import UserError

Grader = Literal["math", "integer", "code"]
PARAMETERS = ("release", "date_from", "date_to")


class Selection(Config):
    """Which part of a benchmark that grows: a release, and the first and last day (both inside) of its problems."""

    release: str | None = None
    date_from: date | None = None
    date_to: date | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Selection:
        """From a mapping that may hold more; UserError names a value that is not a date."""
        try:
            return cls.model_validate({name: values[name] for name in PARAMETERS if values.get(name) is not None})
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"bad {first['loc'][0]} ({first['msg']})", first["input"], "dates are YYYY-MM-DD") from None

    @property
    def has_window(self) -> bool:
        return self.date_from is not None or self.date_to is not None


class EmbeddedData(Config):
    """Problems made on the spot by one of the embedded families."""

    family: str
    split: str = "test"
    seed: int = 0
    levels: tuple[int, ...] | None = None
    """None: all of the family's."""


class Release(Config):
    """A release of a benchmark that grows."""

    files: tuple[str, ...]
    num_problems: int = Field(ge=1)


class HubLayout(Config):
    """What is different on the hub; what is left out is as in the local folder."""

    files: tuple[str, ...] = ()
    columns: dict[str, str] | None = None
    format: str | None = None
    sha256: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(default_factory=dict)
    """Of a file there, where the hub has a copy of what was published elsewhere: another file is refused."""


class FileData(Config):
    """Rows of JSONL or parquet files, at `hub` (a dataset id) or in a local data folder under `folder`."""

    file: str | None = None
    folder: str
    hub: str | None = None
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Full commit of the hub's repository: a branch name would let the data change under the same card."""
    on_hub: HubLayout = HubLayout()
    columns: dict[str, str] = Field(default_factory=dict)
    """Our column -> the file's; those left out are called the same."""
    format: str = "columns"
    """How the rows are read, by name (see `formats.py`)."""
    keep: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Only rows whose column lies between two numbers, both inside."""
    date_column: str | None = None
    """Column with the day (or time) of a problem, for `date_from` and `date_to`."""
    releases: dict[str, Release] = Field(default_factory=dict)
    """Instead of `file`, by name."""
    default_release: str | None = None
    time_limit_s: int | None = Field(default=None, ge=1)
    """Limit of the source benchmark's own harness for one program (`stdio`: for each case)."""
    memory_limit_mib: int | None = Field(default=None, ge=1)
    float_tolerance: float | None = Field(default=None, ge=0, lt=1)
    """How the source benchmark compares floats (see `CodeTests`)."""

    @model_validator(mode="after")
    def _file_or_releases(self) -> FileData:
        if (self.file is None) == (not self.releases):
            raise ValueError("give either `file` or `releases`")
        if self.releases and self.default_release not in self.releases:
            raise ValueError("`default_release` must name one of `releases`")
        return self

    def release(self, selection: Selection) -> Release | None:
        """None where the benchmark has no releases. UserError for an unknown one."""
        name = selection.release or self.default_release
        if not self.releases or name is None:
            return None
        if name not in self.releases:
            raise UserError("unknown release", name, f"choose one of {', '.join(self.releases)}")
        return self.releases[name]

    def file_names(self, selection: Selection) -> tuple[str, ...]:
        """Names in the local folder."""
        if (release := self.release(selection)) is not None:
            return release.files
        return (self.file,) if self.file is not None else ()

    def hub_names(self, selection: Selection) -> tuple[str, ...]:
        """Names in the hub's repository."""
        return self.on_hub.files or self.file_names(selection)

    def layout(self, from_hub: bool) -> tuple[dict[str, str], str]:
        """Columns and format of the local files, or of those on the hub."""
        columns = self.on_hub.columns if from_hub and self.on_hub.columns is not None else self.columns
        return columns, self.on_hub.format if from_hub and self.on_hub.format is not None else self.format

    def keeps(self, row: Mapping[str, Any], selection: Selection) -> bool:
        """Whether the row belongs to the benchmark and, where it has dates, to the window.

        Raises KeyError, TypeError or ValueError for a row without the columns that decide this.
        """
        if any(not first <= int(row[column]) <= last for column, (first, last) in self.keep.items()):
            return False
        if self.date_column is None or not selection.has_window:
            return True
        day = date.fromisoformat(str(row[self.date_column])[:10])
        return (selection.date_from or date.min) <= day <= (selection.date_to or date.max)


def _kind_of_data(block: object) -> str:
    """Decides by the key `family`, so that an error names the key that is wrong and not every kind of data."""
    return "embedded" if isinstance(block, EmbeddedData) or (isinstance(block, Mapping) and "family" in block) else "file"


class CardMetadata(Config):
    """The block `metadata: repirl:` of a task file. `data` is absent if the task file loads its data itself."""

    title: str
    source: str
    licence: str
    grader: Grader
    num_problems: int = Field(ge=1)
    family: str | None = None
    """Family of the problems, by default the task's name."""
    data: (
        Annotated[Annotated[EmbeddedData, Tag("embedded")] | Annotated[FileData, Tag("file")], Discriminator(_kind_of_data)]
        | None
    ) = None
    gold_exceptions: dict[str, str] = Field(default_factory=dict)
    """Problem id -> why its gold cannot be graded against itself: mistakes of the source, for `repirl check` to list."""

    def expected_number(self, selection: Selection) -> int | None:
        """Problems of the whole benchmark or of a release; None where dates choose among them."""
        if not isinstance(self.data, FileData):
            return self.num_problems
        if self.data.date_column is not None and selection.has_window:
            return None
        release = self.data.release(selection)
        return release.num_problems if release is not None else self.num_problems

    def takes(self, parameter: str) -> bool:
        """Whether `release`, `date_from` or `date_to` means anything to this benchmark."""
        if not isinstance(self.data, FileData):
            return False
        return bool(self.data.releases) if parameter == "release" else self.data.date_column is not None


def parse_metadata(block: object, where: str) -> CardMetadata:
    """The validated block; UserError names the card and the first wrong key."""
    if not isinstance(block, Mapping):
        raise UserError("a benchmark card needs a block `metadata: repirl:`", where, "see benchmarks/arith.yaml")
    try:
        return CardMetadata.model_validate(dict(block))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"bad entry metadata.repirl.{key} of a card ({first['msg']})", where) from None
