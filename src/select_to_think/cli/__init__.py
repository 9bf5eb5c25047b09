"""The `s2t` command: one file per sub-command.

Non-goals: logic. A command reads its flags, calls the library and shows what came back; torch and transformers are
imported only when a command needs them, so that `s2t --help` answers at once.
"""
