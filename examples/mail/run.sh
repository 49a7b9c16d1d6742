#!/usr/bin/env bash
# Starts Dovecot without rights, puts the proxy in front, and uses it as a mail program does.
#   usage: run.sh [BINARY]        (default: TIDEGATE_BINARY, else target/release/tidegate)
# BASE_PORT=N uses the ports N (IMAP), N+1 (logins) and N+2 (Dovecot) instead of 8143, 8083 and 8144.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=$(realpath "${1:-${TIDEGATE_BINARY:-$here/../../target/release/tidegate}}")
front=${BASE_PORT:-8143}
logins=${BASE_PORT:+$((BASE_PORT + 1))}
logins=${logins:-8083}
dovecot=${BASE_PORT:+$((BASE_PORT + 2))}
dovecot=${dovecot:-8144}
work=$(mktemp -d)
pids=()

# Kills by process id, and waits, so that nothing is left behind however we end.
clean_up() {
    trap - EXIT
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

fail() {
    echo "FAILED: $*" >&2
    tail -20 "$work/dovecot/log" "$work/tidegate.log" >&2 2>/dev/null || true
    exit 1
}

wait_for() { # what command ...
    local what=$1
    shift
    for _ in $(seq 200); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.05
    done
    fail "waited in vain: $what"
}

accepts() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }

# As root, Dovecot runs as nobody.
if [ "$(id -u)" -eq 0 ]; then
    uid=65534 gid=65534 drop=(setpriv --reuid=65534 --regid=65534 --clear-groups)
else
    uid=$(id -u) gid=$(id -g) drop=()
fi
user=$(getent passwd "$uid" | cut -d: -f1)
group=$(getent group "$gid" | cut -d: -f1)

chmod 755 "$work"
mkdir -p "$work/dovecot"/{run,state,home}
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=mail.example.org \
    -keyout "$work/mail.key" -out "$work/mail.crt" 2>/dev/null

d=$work/dovecot
echo 'alice:{PLAIN}secret' >"$d/users"
cat >"$d/dovecot.conf" <<EOF
base_dir = $d/run
state_dir = $d/state
log_path = $d/log
protocols = imap
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
default_internal_user = $user
default_internal_group = $group
default_login_user = $user
first_valid_uid = 1
mail_location = maildir:$d/home/%u/Maildir
mail_max_userip_connections = 1000
passdb {
  driver = passwd-file
  args = scheme=PLAIN $d/users
}
userdb {
  driver = static
  args = uid=$uid gid=$gid home=$d/home/%u
}
service anvil {
  chroot =
}
service stats {
  chroot =
}
service imap-login {
  chroot =
  inet_listener imap {
    port = $dovecot
  }
  inet_listener imaps {
    port = 0
  }
}
EOF
[ "$(id -u)" -ne 0 ] || chown -R "$uid:$gid" "$d"
"${drop[@]}" "$(PATH=$PATH:/usr/sbin command -v dovecot)" -F -c "$d/dovecot.conf" &
pids+=($!)
wait_for "Dovecot accepts" accepts "$dovecot"

sed -e "s/:8143;/:$front;/; s/127.0.0.1:8083/127.0.0.1:$logins/; s/Auth-Port 8144/Auth-Port $dovecot/" \
    "$here/nginx.conf" >"$work/nginx.conf"
"$binary" -p "$work/" -c "$work/nginx.conf" -e stderr 2>"$work/tidegate.log" &
pids+=($!)
wait_for "the proxy accepts" accepts "$front"
wait_for "the login service accepts" accepts "$logins"

python3 "$here/client.py" "$front" || fail "the client"
echo "OK"
