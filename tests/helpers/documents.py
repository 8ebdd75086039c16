"""Documents whose examples are true: READMEs are doctests, tutorials are followed as a reader would.

```python
assert examples(README) > 3                # runs what stands after >>>; returns how many examples
follow(TUTORIAL, folder)                   # runs its blocks of Python and of commands, in a folder
follow(PAGE, folder, {"org/big": "tiny"})  # the same, with small things under the names of big ones
```
"""

import contextlib
import doctest
import importlib
import re
import shlex
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(path):
    """Run a document's doctests; returns how many examples there were, all of them true."""
    done = doctest.testfile(str(path), module_relative=False)
    assert done.failed == 0, f"{path}: {done.failed} examples are not true"
    return done.attempted


def follow(path, folder, instead=()):
    """Run the blocks of a page one after another, in a folder: `python`, and `bash` with our commands.

    `text` is shown to readers and not run. Commands run in this process, because starting Python with
    PyTorch for each takes longer than all they do here. `instead` says what stands for words of the page.
    Returns the names that its Python defined.
    """
    names = {"__name__": "tutorial"}
    text = Path(path).read_text(encoding="utf-8")
    for word, other in dict(instead).items():
        assert word in text, f"{path}: there is no {word!r} to be replaced"
        text = text.replace(word, str(other))
    with contextlib.chdir(folder):
        for found in FENCE.finditer(text):
            kind, code = found.groups()
            line = text.count("\n", 0, found.start()) + 2
            if kind == "python":
                # empty lines before it, so that an error names the line of the document
                exec(compile("\n" * (line - 1) + code, str(path), "exec"), names)
            elif kind == "bash":
                for command in code.replace("\\\n", " ").splitlines():
                    run(command, f"{path}:{line}")
            else:
                assert kind == "text", f"{path}:{line}: a block of {kind!r}; mark what is not run as text"
    return names


def run(command, place):
    """Run one command of ours."""
    program, *arguments = shlex.split(command, comments=True)
    assert program.startswith("o1-"), f"{place}: {program} is no command of ours; mark the block as text"
    main = importlib.import_module(f"{program.replace('-', '_')}.__main__").main
    code = main(arguments)
    assert code == 0, f"{place}: {command} ended with {code}"
