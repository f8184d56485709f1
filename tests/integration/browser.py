# Copyright (c) 2026, PortFence contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A headless Chromium, driven through its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Optional, Type

import aiohttp
from lab_keeper import PATH

_PATIENCE = 60.0  # seconds until Chromium answers, however busy the machine is


class Browser:
    """One page. Use it as a context manager."""

    def __enter__(self) -> Browser:
        program = shutil.which("chromium")
        assert program is not None, "scripts/setup test brings chromium"
        self._folder = tempfile.TemporaryDirectory()
        # Tests run as root, for whom there is no sandbox; the page is ours and lies on this machine.
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0"]
        self._process = subprocess.Popen(
            [program, *options, f"--user-data-dir={self._folder.name}", "about:blank"],
            # What it would keep in the home of the user goes with the folder.
            env={"PATH": PATH, "HOME": self._folder.name},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self.requests: List[str] = []
        self._loop.run_until_complete(self._connect())
        for domain in ("Page", "Network", "Runtime", "Accessibility"):
            self.call(f"{domain}.enable")
        return self

    async def _connect(self) -> None:
        said = Path(self._folder.name, "DevToolsActivePort")
        deadline = time.monotonic() + _PATIENCE
        while not said.exists() or len(said.read_text(encoding="ascii").split()) < 2:
            assert time.monotonic() < deadline and self._process.poll() is None, "Chromium does not start"
            await asyncio.sleep(0.05)
        port = said.read_text(encoding="ascii").split()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [target for target in await answer.json() if target["type"] == "page"]
        self._socket = await self._session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.call("Browser.close")
        self._loop.run_until_complete(self._session.close())
        self._loop.close()
        # It ends after its children.
        self._process.wait()
        self._folder.cleanup()

    def call(self, method: str, **params: Any) -> Dict[str, Any]:
        """A command of the protocol, and its result."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, params), _PATIENCE))

    async def _call(self, method: str, params: Dict[str, Any]) -> Dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: Dict[str, Any] = message["result"]
                return result

    def open(self, path: Path) -> None:
        """Load a file, and wait until it is shown."""
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + _PATIENCE
        while self.ask("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < deadline, "the page does not load"

    def ask(self, expression: str) -> Any:
        """The value of an expression in JavaScript."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            code = {"Tab": 9}[key]
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def write(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def spoken(self) -> List[str]:
        """Role and name of everything that a screen reader is told of."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [f"{node['role']['value']}: {node.get('name', {}).get('value', '')}" for node in nodes if not node["ignored"]]
