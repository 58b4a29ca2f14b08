"""The signature of a bundle, checked with OpenSSF model-signing against the keys that are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pipeline.verifier.files import SIGNATURE
from pipeline.verifier.outcome import Refused, Unable


class Trust(NamedTuple):
    """Whose signature is asked for; nobody's if all are empty."""

    key: Path | None = None
    certificates: tuple[Path, ...] = ()
    identity: str | None = None
    issuer: str | None = None

    @property
    def asked(self) -> bool:
        """Whether a signature must be there."""
        return bool(self.key or self.certificates or self.identity)


def verify_signature(folder: Path, trust: Trust) -> str:
    """Whether the bundle is signed, and by whom, in a few words.

    Raises:
        Refused: one is asked for and missing, or does not hold.
        Unable: model-signing is not installed, or a key cannot be read.
    """
    path = folder / SIGNATURE
    if not trust.asked:
        return "signed, not checked: give --key, --certificate or --identity" if path.exists() else "none"
    if not path.exists():
        raise Refused("a signature is asked for, and the bundle has none")
    try:
        from model_signing import verifying
    except ImportError:
        raise Unable("to check signatures: pip install 'torchstone[signing]' (model-signing and pyopenssl)") from None
    for file in (trust.key, *trust.certificates):
        if file is not None and not file.is_file():
            raise Unable(f"{file} is not there: give the file of the public key or certificate")
    config = verifying.Config().set_hashing_config(all_but(path))
    if trust.key:
        config.use_elliptic_key_verifier(public_key=trust.key)
    elif trust.certificates:
        config.use_certificate_verifier(certificate_chain=list(trust.certificates))
    else:
        config.use_sigstore_verifier(identity=trust.identity or "", oidc_issuer=trust.issuer or "")
    try:
        config.verify(folder, path)
    except Exception as error:  # noqa: BLE001 - the library raises many kinds; whatever it is, nothing was proved
        raise Refused(f"the signature does not hold: {type(error).__name__}: {str(error)[:300]}") from None
    return f"holds, by {trust.key or trust.identity or trust.certificates[0]}"


def all_but(signature: Path) -> Any:
    """Model-signing's settings for what is signed: every file of the folder but the signature itself."""
    from model_signing import hashing

    return hashing.Config().use_file_serialization().set_ignored_paths(paths=[signature], ignore_git_paths=False)
