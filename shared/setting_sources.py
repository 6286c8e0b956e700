"""Where settings come from besides the environment: files, such as those of Docker secrets, and AWS Secrets Manager.

- `TASKMILL_SECRET_KEY_FILE` names the file that has the value of `TASKMILL_SECRET_KEY`, and so for every setting.
- `TASKMILL_AWS_SECRET_ID` names a secret in AWS Secrets Manager: a JSON object whose keys are names of settings, such as
  `TASKMILL_SECRET_KEY`. Region and credentials are those that boto3 finds.

A variable of the environment takes precedence over AWS. A setting with both a variable and a file is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_settings import AWSSecretsManagerSettingsSource, BaseSettings, PydanticBaseSettingsSource

from shared.errors import ConfigurationError

FILE_SUFFIX: Final = "_FILE"
MAX_FILE_BYTES: Final = 64 * 1024
AWS_SECRET_ID: Final = "AWS_SECRET_ID"
"""The name, without its prefix, of the setting that names the secret in AWS Secrets Manager."""


class FileSource(PydanticBaseSettingsSource):
    """Reads the settings whose variables end in `_FILE`."""

    def __init__(self, settings_cls: type[BaseSettings], prefix: str) -> None:
        super().__init__(settings_cls)
        self._prefix = prefix

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the content of the file of a setting without the line break at its end, or None; its name; and False."""
        variable = self._prefix + field_name.upper()
        path = os.environ.get(variable + FILE_SUFFIX)
        if not path:
            return None, field_name, False
        if os.environ.get(variable):
            raise ConfigurationError(f"{variable} and {variable}{FILE_SUFFIX} are both set: unset one of them")
        return _read(path, variable + FILE_SUFFIX), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the settings that have a file."""
        values = {name: self.get_field_value(info, name)[0] for name, info in self.settings_cls.model_fields.items()}
        return {name: value for name, value in values.items() if value is not None}


def _read(path: str, variable: str) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigurationError(f"the file {path} of {variable} has more than {MAX_FILE_BYTES:,} bytes")
        return content.decode().rstrip("\r\n")
    except OSError as error:
        raise ConfigurationError(
            f"the file {path} of {variable} cannot be read: {error.strerror}. Name a file that this process may read"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the file {path} of {variable} is no text in UTF-8") from None


def open_aws_source(settings_cls: type[BaseSettings], prefix: str) -> PydanticBaseSettingsSource | None:
    """Return the source of the secret that `TASKMILL_AWS_SECRET_ID` names, or None if it is unset.

    Raises `ConfigurationError` if the secret cannot be read, and never with its content.
    """
    variable = prefix + AWS_SECRET_ID
    file = os.environ.get(variable + FILE_SUFFIX)
    secret_id = os.environ.get(variable) or (_read(file, variable + FILE_SUFFIX) if file else None)
    if not secret_id:
        return None
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return AWSSecretsManagerSettingsSource(settings_cls, secret_id, case_sensitive=False, env_prefix=prefix)
    except (BotoCoreError, ClientError) as error:
        raise ConfigurationError(
            f"the secret {secret_id} of {variable} cannot be read from AWS Secrets Manager: {error}"
        ) from None
    except (ValueError, AttributeError, KeyError):
        raise ConfigurationError(
            f"the secret {secret_id} of {variable} is no JSON object of texts: store one whose keys are names of "
            f"settings, such as {prefix}SECRET_KEY"
        ) from None
