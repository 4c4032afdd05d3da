#!/bin/sh
# Shows model_server on real processes: see README.md.
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
"$python" -c 'import pushq' 2>/dev/null || python="$here/../../../.venv/bin/python"
exec "$python" "$here/run.py" "$@"
