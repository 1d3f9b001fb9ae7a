"""The verbs of the command line, a module each: ``TEXT``, ``add_arguments(add)`` and ``run(arguments, console)``.

The only place where the stages meet: what one stage knows and another needs is carried through here as plain arrays and
dataclasses. A stage is imported inside the function that needs it, so that `--help` waits for none.
"""
