"""One file a command. At import they load click and rich only; the rest when they run."""
