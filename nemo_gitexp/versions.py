"""The guide's versions of configurations: short hashes, versioned names, configurations saved beside the studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nemo_gitexp.errors import UsageError
from nemo_gitexp.jsontext import render_json
from nemo_gitexp.naming import MAX_NAME, require_name
from nemo_gitexp.rundir import save_document
from nemo_gitexp.versioning import config_hash, plain_config

if TYPE_CHECKING:
    import os

SHORT_HASH = 8


class ExperimentVersioning:
    """Names that change exactly when the configuration does."""

    @staticmethod
    def generate_config_hash(config: object) -> str:
        """Return the first 8 hex digits of `config_hash`: for names; the whole hash is stored and compared.

        Raises:
            CanonicalFormError: a value without a stable form (`key` is its dotted path).
        """
        return config_hash(config).removeprefix("sha256:")[:SHORT_HASH]

    @staticmethod
    def create_versioned_experiment(base_name: str, config: object, version: str | int | None = None) -> str:
        """Return the name `<base_name>_v<version>`, by default with the short hash of the configuration.

        Raises:
            UsageError: an empty version.
            InvalidNameError: what would come out cannot stand in a git ref.
            CanonicalFormError: a value without a stable form (`key` is its dotted path).
        """
        require_name(base_name, "experiment", limit=MAX_NAME)
        chosen = ExperimentVersioning.generate_config_hash(config) if version is None else str(version)
        if not chosen:
            raise UsageError("an empty version names nothing", hint="leave it out for the hash of the configuration")
        return require_name(f"{base_name}_v{chosen}", "experiment", limit=MAX_NAME)

    @staticmethod
    def save_experiment_config(
        experiment_name: str, config: object, output_dir: str | os.PathLike[str] = "./experiments"
    ) -> Path:
        """Write `<experiment_name>_config.json` and return its path.

        The file holds the plain form that is hashed and recorded, one key a line; read back, it has the same hash.

        Side effects: the directory is made; an older file is replaced, by rename.

        Raises:
            InvalidNameError: a name that cannot stand in a git ref, or leads elsewhere.
            CanonicalFormError: a value without a stable form (`key` is its dotted path).
            StateDirectoryError: the file cannot be written.
        """
        require_name(experiment_name, "experiment", limit=MAX_NAME)
        content = render_json(plain_config(config))
        return save_document(Path(output_dir) / f"{experiment_name}_config.json", content)
