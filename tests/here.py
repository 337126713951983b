"""What `common` runs in processes of its own, run in this one: for tests of what is computed there.

A process that imports torch costs as much as ten small tests. That there are processes, what they are given and what becomes of
one that dies is tested once, in tests/runs/test_jobs.py and tests/timing/test_cases.py; here everything still goes through pickle
on its way in and out, so that what could not reach another process does not pass.
"""

import pickle
from concurrent.futures import Future


def there_and_back(value):
    return pickle.loads(pickle.dumps(value))


def in_this_process(function, /, *arguments, **options):
    """In place of `common.timing.cases.in_a_process`."""
    function, arguments, options = there_and_back((function, arguments, options))
    return there_and_back(function(*arguments, **options))


class Pool:
    """In place of the ProcessPoolExecutor of `common.runs.jobs`: what is submitted has run."""

    def __init__(self, *ignored, **options):
        pass

    def submit(self, function, /, *arguments):
        future = Future()
        try:
            future.set_result(in_this_process(function, *arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **options):
        pass
