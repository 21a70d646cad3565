"""Small text files that a command is given, at local paths or URLs."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from schemas.errors import ConfigError


def read_text(path: str) -> str:
    """Return the UTF-8 text of a file at a local path or any fsspec URL.

    Raises:
        ConfigError: it is not there, may not be read or is not text.
    """
    try:
        if "://" not in path:
            return Path(path).read_text(encoding="utf-8-sig")
        from pipeline.storage.folder import read_uri

        return read_uri(path).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ConfigError(
            f"{path} is a folder, expected a file; a folder of images is given with --images"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a UTF-8 text file") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from error


def parse_yaml(text: str, where: str) -> Any:
    """Return the mapping or list that a YAML text holds; interpolations `${...}` are resolved.

    OmegaConf's reader, because it refuses a key given twice and reads 1e-3 as a number.

    Raises:
        ConfigError: names `where`, line and column.
    """
    try:
        return OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise ConfigError(f"{place}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from error
