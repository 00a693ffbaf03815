"""Textual, without a terminal: keys, a worker, a timer."""

import asyncio
import os

from inside import check_loop
from textual.app import App
from textual.widgets import Input, Label

import uringloop

os.environ["TEXTUAL_ANIMATIONS"] = "none"


class Program(App):
    def compose(self):
        yield Input(id="input")
        yield Label("", id="label")

    def on_input_submitted(self, event):
        self.run_worker(self.answer(event.value))

    async def answer(self, text):
        check_loop()
        process = await asyncio.create_subprocess_exec("rev", stdin=-1, stdout=-1)
        output, _ = await process.communicate(text.encode())
        self.set_timer(0.01, lambda: self.exit(output.decode()))


async def type_text(pilot):
    await pilot.press(*"abc", "enter")
    await pilot._wait_for_screen()


with asyncio.Runner(loop_factory=uringloop.new_event_loop) as runner:
    assert Program().run(headless=True, auto_pilot=type_text, loop=runner.get_loop()) == "cba"
