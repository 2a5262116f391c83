"""As many open files as this process may have.

Why: a connection is a descriptor, and what a process starts with is often 1,024, kept low for
programs that use select(2), which these do not. A gateway parks thousands of polls,
a coordinator a watch of each node, an agent half a dozen for each function. It must not ask for
more than the hard limit.
"""

from __future__ import annotations

import resource


def allow_most_files() -> None:
    """Raise this process's soft limit of open files to the hard one; its children have it too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
