"""The unit for systemd, held against systemd's own judgement. Of the file that is shipped only the program's place differs."""

import pathlib
import shlex
import subprocess

import pytest

from gateway import BINARY, ROOT

UNIT = ROOT / "systemd/trunkline.service"
PROGRAM = "/usr/bin/trunkline"
# In tenths: systemd's scale goes from 0 to 10, and 1.5 is what the unit promises to stay at.
EXPOSURE = 15


@pytest.fixture
def unit(tmp_path):
    """The unit, with the program where it was built: `verify` looks whether it can be run."""
    text = UNIT.read_text()
    assert text.count(PROGRAM) == 2, "ExecStart and ExecReload"
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(PROGRAM, str(BINARY.resolve())))
    return copy


def analyze(*arguments):
    return subprocess.run(["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def test_systemd_has_nothing_to_say_against_the_unit(unit):
    judged = analyze("verify", "--man=no", "--recursive-errors=no", unit)
    # What it does not know it only warns of.
    assert (judged.returncode, judged.stderr) == (0, "")


def test_systemd_would_find_a_mistake_in_it(unit):
    unit.write_text(unit.read_text().replace("ProtectClock=yes", "ProtectClocks=yes"))
    assert "ProtectClocks" in analyze("verify", "--man=no", "--recursive-errors=no", unit).stderr


def test_the_unit_is_as_closed_as_it_promises(unit):
    judged = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", unit)
    assert judged.returncode == 0, judged.stdout[-200:] + judged.stderr


def test_what_the_unit_runs_is_what_the_program_understands(unit):
    lines = [line.split("=", 1) for line in unit.read_text().splitlines() if line.startswith("Exec")]
    assert sorted(key for key, _ in lines) == ["ExecReload", "ExecStart"]
    for _, command in lines:
        helped = subprocess.run([*shlex.split(command), "--help"], capture_output=True, text=True, timeout=60, check=False)
        assert helped.returncode == 0, f"{command}: {helped.stderr}"
    assert pathlib.Path(shlex.split(dict(lines)["ExecStart"])[-1]).is_absolute()
