"""The search for secrets in what a push writes into layers, before anything is uploaded.

`rules` says what a secret looks like; `scanner` finds secrets in content that passes through it;
`policy` decides which of them block the push.

May import source, terminal, runtime and errors.
"""
