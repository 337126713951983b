"""A pipe into which a test writes bytes while a stream reads them."""

import contextlib
import os


@contextlib.contextmanager
def open_pipe():
    """(function that writes bytes, file that reads them); writing None ends the text."""
    reading, writing = os.pipe()
    opened = [writing]

    def put(data):
        if data is None:
            os.close(opened.pop())
        else:
            os.write(writing, data)

    with os.fdopen(reading, "rb", buffering=0) as file:
        yield put, file
    for left in opened:
        os.close(left)
