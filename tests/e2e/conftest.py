"""What every test may ask for. Each fixture ends what it began, by handle, in reverse order."""

import pathlib
import shutil
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import gateway as gateway_module  # noqa: E402
from cloud import Cable, Mosquitto, Witness  # noqa: E402
from waiting import free_port  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def built_binary():
    if not gateway_module.BINARY.exists():
        pytest.exit(f"{gateway_module.BINARY} is not built: cargo build, or tests/run e2e", returncode=1)


@pytest.fixture
def begin():
    """Starts something and stops it at the end: `peer = begin(TcpPeer(…).start())`."""
    begun = []

    def remember(thing):
        begun.append(thing)
        return thing

    yield remember
    failures = []
    for thing in reversed(begun):
        try:
            thing.stop()
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]


@pytest.fixture
def make_gateway(tmp_path, begin, request):
    """Makes a gateway from YAML, not started; shows its log when the test fails."""
    made = []

    def make(text, name="gateway", **options):
        one = gateway_module.Gateway(tmp_path / name, text, **options)
        made.append(one)
        begin(one)
        return one

    yield make
    for one in made:
        if one.lines:
            print(f"── log of {one.config}\n" + "\n".join(one.lines[-120:]))
        shutil.rmtree(one.run_dir, ignore_errors=True)


@pytest.fixture
def cloud(tmp_path, begin):
    return begin(Mosquitto(tmp_path).start())


@pytest.fixture
def cable(cloud, begin):
    one = Cable(("127.0.0.1", cloud.port))
    one.stop = one.cut
    return begin(one)


@pytest.fixture
def witness(begin):
    def make(port, *filters, **options):
        return begin(Witness(port, filters, **options))

    return make


@pytest.fixture
def port():
    return free_port()
