# Starts a throw-away registry, for scripts that source this file.

# serve_registry DIR: set $registry to its process, and $host to its address. DIR gets its log.
serve_registry() {
    local port
    # A free port of the system's choice.
    crane registry serve --address 127.0.0.1:0 2>"$1/registry.log" &
    registry=$!
    until port=$(grep -oE 'port [0-9]+$' "$1/registry.log" 2>/dev/null); do
        kill -0 "$registry" || { cat "$1/registry.log" >&2; exit 1; }
        sleep 0.05
    done
    host=127.0.0.1:${port#port }
}
