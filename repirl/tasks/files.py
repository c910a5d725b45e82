"""Where rows lie: local JSONL and parquet files, and files of the Hugging Face hub at a pinned revision."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from repirl.errors import UserError
from repirl.files import read_objects

DATA_DIR_VARIABLE = "REPIRL_DATA_DIR"


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of a .jsonl, .jsonl.gz or .parquet file; `where` names the line or row for messages.

    Of a parquet file only `columns` are read, if given and there.
    """
    if path.suffix != ".parquet":
        for number, row in read_objects(path):
            yield f"line {number} of {path.name}", row
        return
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=256, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number} of {path.name}", row
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError("cannot read the parquet file", str(path), str(error).splitlines()[0]) from error


def hub_file(hub: str, revision: str, name: str, instead: str, sha256: str | None = None) -> Path:
    """A file of a dataset repository at a full commit, from the cache or downloaded.

    UserError where the hub does not give it, or one with another `sha256`; `instead` says what to do then.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # each of its retries would be a warning
    try:
        path = Path(hf_hub_download(hub, name, repo_type="dataset", revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"the hub does not give {hub} at {revision[:12]} ({type(error).__name__})", todo=instead) from error
    finally:
        logging.set_verbosity(verbosity)
    if sha256 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise UserError(f"{name} of {hub} at {revision[:12]} is another file (sha256 {found[:12]})", sha256[:12], instead)
    return path
