"""How the crane binary is run.

`process` starts, reads and ends it; `watchdog` ends a crane that makes no progress, and tells how
far an upload is; `credentials` chooses what it logs in with; `errors` turns the texts that it
prints into errors with a hint.

May import image, terminal, runtime and errors. Only crane.py runs crane through it; other modules
import its errors and `UploadProgress`.
"""
