"""Studies: the stories a user runs, the one place where models, attacks, judges and measures meet."""
