"""Signing a bundle with OpenSSF model-signing, an extra. All of the folder is signed, so anyone can check it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from export import hints
from export.errors import UserError
from pipeline.verifier.files import SIGNATURE
from pipeline.verifier.signing import all_but

PASSWORD = "TORCHSTONE_KEY_PASSWORD"  # noqa: S105 - the name of a variable


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Who signs."""

    key: Path | None = None
    """A private key on the curve P-256, P-384 or P-521, as PEM; its password, if any, in TORCHSTONE_KEY_PASSWORD."""
    certificate: Path | None = None
    """The key's certificate: the signature then carries it."""
    chain: tuple[Path, ...] = ()
    """The certificates above it."""
    sigstore: bool = False
    """Sign with an identity, online."""

    @property
    def asked(self) -> bool:
        """Whether anything is to be signed."""
        return self.key is not None or self.sigstore


def sign(bundle: Path, signer: Signer) -> None:
    """Write the signature over every file of the bundle.

    Raises:
        UserError: model-signing is missing, or the key cannot be used.
    """
    try:
        from model_signing import signing
    except ImportError as error:
        raise UserError(f"signing needs model-signing ({error}): {hints.install('signing')}") from error
    signature = bundle / SIGNATURE
    config = signing.Config().set_hashing_config(all_but(signature))
    for file in (signer.key, signer.certificate, *signer.chain):
        if file is not None and not file.is_file():
            raise UserError(f"{file} is not there: give the file of the key or certificate")
    try:
        if signer.sigstore:
            config.use_sigstore_signer(use_ambient_credentials=True)
        elif signer.certificate is not None:
            config.use_certificate_signer(
                private_key=signer.key, signing_certificate=signer.certificate, certificate_chain=list(signer.chain)
            )
        else:
            config.use_elliptic_key_signer(private_key=signer.key, password=os.environ.get(PASSWORD))
        config.sign(bundle, signature)
    except Exception as error:  # the library has no type of its own for what keys can be
        raise UserError(f"the bundle could not be signed: {type(error).__name__}: {str(error)[:300]}") from error
