"""A notebook that nbclient runs; its kernel is on stock asyncio."""

import nbformat
from inside import check_loop
from nbclient import NotebookClient

import uringloop


async def main():
    check_loop()
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("x = 20"),
            nbformat.v4.new_code_cell("import asyncio\nawait asyncio.sleep(0.01)\nx + 1"),
        ]
    )
    await NotebookClient(notebook, timeout=60, kernel_name="python3").async_execute()
    assert notebook.cells[1].outputs[0].data["text/plain"] == "21"


uringloop.run(main())
