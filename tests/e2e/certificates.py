"""Certificates for tests, made by openssl: an authority, and what it signs."""

import pathlib
import subprocess

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


class Authority:
    """Signs certificates of servers and clients."""

    def __init__(self, folder, name="authority"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.certificate, self.key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        _openssl("req", "-x509", *CURVE, "-days", "2", "-subj", f"/CN={name}", "-keyout", self.key, "-out",
                 self.certificate)

    def signed(self, name, subject, alternative=None):
        """Certificate and key for a subject like `/O=Works/CN=pump-7`."""
        request, cert, key = (self.folder / f"{name}.{end}" for end in ("csr", "pem", "key"))
        _openssl("req", *CURVE, "-utf8", "-subj", subject, "-keyout", key, "-out", request)
        extra = self.folder / f"{name}.ext"
        # rustls takes certificates of version 3 only; an extension makes them so.
        extra.write_text("basicConstraints=CA:FALSE\n" + (f"subjectAltName={alternative}\n" if alternative else ""))
        _openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial",
                 "-days", "2", "-extfile", extra, "-out", cert)
        return cert, key
