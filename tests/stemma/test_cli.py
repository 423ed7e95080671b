"""The entry point: what a user can mend is told in a line, everything else keeps its traceback."""

import pytest

from stemma import cli
from stemma.core.errors import DamagedError


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(30, "Read-only file system", "/r/a.json"), 1, "/r/a.json: Read-only file system. Make room"),
        (OSError(28, "No space left on device"), 1, "a file: No space left on device. Make room"),
        (PermissionError(13, "Permission denied", "/r"), 1, "/r: Permission denied"),
        (DamagedError("a file is damaged"), 3, "a file is damaged"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again"),
    ],
)
def test_what_a_user_can_mend_is_told_plainly(monkeypatch, capsys, error, code, said):
    def app():
        raise error

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == code
    assert capsys.readouterr().err.startswith(f"stemma: {said}")


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file", "x"), ValueError("a bug"), OSError("bare")]
)
def test_bugs_keep_their_traceback(monkeypatch, error):
    def app():
        raise error

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(type(error)):
        cli.main()
