"""The curl commands of the guide, as they stand there but for the address."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).parent.parent.parent / "docs" / "guide" / "server.md"
COMMANDS = re.findall(r"^curl .*?(?<!\\)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_answered(address: str, command: str) -> None:
    command = command.replace("http://127.0.0.1:8000", address)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    if '"stream"' in command:
        assert done.stdout.endswith("data: [DONE]\n\n")
    else:
        answer: Any = json.loads(done.stdout)
        assert "error" not in answer
        assert answer.get("choices") or answer["tokens"]
