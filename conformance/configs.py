#!/usr/bin/env python3
"""Asks nginx and Tidegate about every configuration of a folder, and prints where they disagree.

usage: conformance/configs.py FOLDER --nginx BINARY --ours BINARY [--shortest N] [--verbose] [--jobs N]

Each file is tried in a folder of its own. What it refers to is made there in the same way for both: certificates, files
of users, included files, folders of logs and caches. Names of upstreams become an address of this machine and users
become one that exists, so that the verdict is about what is written and not about this machine. A file that is only a
part of a configuration is put into the blocks that it belongs to.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

FILES = {
    "include", "ssl_certificate", "ssl_certificate_key", "ssl_trusted_certificate", "ssl_client_certificate",
    "ssl_dhparam", "ssl_password_file", "ssl_crl", "ssl_stapling_file", "ssl_session_ticket_key",
    "auth_basic_user_file", "access_log", "error_log", "pid", "lock_file", "client_body_temp_path", "proxy_temp_path",
    "fastcgi_temp_path", "uwsgi_temp_path", "scgi_temp_path", "proxy_cache_path", "fastcgi_cache_path",
    "uwsgi_cache_path", "scgi_cache_path", "proxy_ssl_certificate", "proxy_ssl_certificate_key",
    "proxy_ssl_trusted_certificate", "working_directory", "google_perftools_profiles", "rewrite_log",
}
PASSES = {"proxy_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "grpc_pass", "memcached_pass", "auth_http", "mirror"}
MAIN = {"events", "http", "stream", "mail", "user", "worker_processes", "pid", "daemon", "worker_rlimit_nofile", "env"}
LOCATION_ONLY = {"proxy_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "grpc_pass", "alias", "internal", "stub_status",
                 "stub_status", "location", "if", "rewrite", "return", "set", "try_files", "listen", "server_name", "break"}
NOT_BUILT = re.compile(r'is known to nginx, but not supported yet|not supported yet|is of the module|is not built in')
KEYS = {}


class Token:
    """A word, with where it stands in the text."""

    def __init__(self, kind, text, start, end):
        self.kind, self.text, self.start, self.end = kind, text, start, end


def tokens(text):
    """The words, semicolons and braces of a configuration."""
    at, size = 0, len(text)
    while at < size:
        char = text[at]
        if char in " \t\r\n":
            at += 1
        elif char == "#":
            end = text.find("\n", at)
            at = size if end < 0 else end
        elif char in ";{}":
            yield Token(char, char, at, at + 1)
            at += 1
        elif char in "\"'":
            end = at + 1
            while end < size and text[end] != char:
                end += 2 if text[end] == "\\" else 1
            yield Token("word", text[at + 1:end], at, min(end + 1, size))
            at = end + 1
        else:
            end = at
            while end < size and text[end] not in " \t\r\n;":
                if text[end] == "{" and text[end - 1] != "$":
                    break
                if text[end] == "{":
                    close = text.find("}", end)
                    end = size - 1 if close < 0 else close
                end += 2 if text[end] == "\\" else 1
            yield Token("word", text[at:end], at, min(end, size))
            at = end


def directives(text):
    """Every directive as its words, with the names of the blocks around it."""
    around, words = [], []
    for token in tokens(text):
        if token.kind == "word":
            words.append(token)
            continue
        if token.kind == "}":
            if around:
                around.pop()
            words = []
            continue
        if words:
            yield list(around), words
        if token.kind == "{":
            around.append(words[0].text if words else "")
        words = []


class Place:
    """A folder in which one configuration is tried."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        for name in ("conf", "logs", "html"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "conf/mime.types").write_text("types { text/html html; text/css css; image/png png; }\n")

    def file(self, directive, written):
        """The file's name inside of the folder, and the file itself where it has to be there."""
        if written in ("off", "stderr") or written.startswith(("syslog:", "memory:", "data:", "engine:", "store:")):
            return written
        if "$" in written and directive != "include":
            return written
        base = "conf" if directive == "include" or directive.startswith("ssl") or directive.startswith("auth") else ""
        inside = re.sub(r"[^A-Za-z0-9_.*?\[\]-]+", "/", written.replace("${", "").replace("}", "")).strip("/") or "x"
        inside = "/".join(part for part in inside.split("/") if part not in ("..", "."))
        path = self.folder / base / inside
        if "*" in inside or "?" in inside:
            path.parent.mkdir(parents=True, exist_ok=True) if "*" not in str(path.parent) else None
            return str(path)
        if path.is_dir():
            return str(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if directive.endswith("_path") or directive == "working_directory":
                path.mkdir(exist_ok=True)
            elif not path.exists():
                self.fill(directive, path)
        except OSError:
            pass
        return str(path)

    @staticmethod
    def fill(directive, path):
        if directive == "include" and path.name == "mime.types":
            path.write_text("types { text/html html; text/css css; }\n")
        elif directive == "ssl_dhparam":
            path.write_bytes(KEYS["dhparam"])
        elif directive.endswith("certificate_key"):
            path.write_bytes(KEYS["key"])
        elif directive.startswith(("ssl_", "proxy_ssl_")):
            path.write_bytes(KEYS["certificate"])
        elif directive in ("include", "auth_basic_user_file"):
            path.write_text("")


def adapted(text, place):
    """The text with everything outside of it made available, for both alike."""
    known = {words[1].text for around, words in directives(text) if words[0].text == "upstream" and len(words) > 1}
    edits = []
    for around, words in directives(text):
        name = words[0].text
        if any("lua" in block for block in around):
            continue
        if name == "load_module":
            edits.append((words[0].start, words[-1].end, "env TRIED"))
        elif name == "user" and not around and len(words) > 1:
            edits.append((words[1].start, words[-1].end, "root"))
        elif name in FILES and len(words) > 1 and name != "rewrite_log":
            edits.append((words[1].start, words[1].end, f'"{place.file(name, words[1].text)}"'))
        elif name in PASSES and len(words) > 1:
            edits.extend(host_of_url(words[1], known))
        elif name == "server" and around and around[-1] == "upstream" and len(words) > 1:
            edits.extend(host_of_address(words[1], set()))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def host_of_url(word, known):
    match = re.match(r"([a-z]+://)?([^/:$?]+)", word.text)
    if not match or word.text.startswith(("unix:", "$")) or "unix:" in word.text:
        return []
    quoted = 1 if word.end - word.start == len(word.text) + 2 else 0
    shifted = Token("word", match.group(2), word.start + quoted + match.start(2), word.start + quoted + match.end(2))
    if "$" in word.text[match.end(2):].split("/")[0].replace(":$", ""):
        return []
    return host_of_address(shifted, known)


def host_of_address(word, known):
    host = word.text.split(":")[0]
    if host == "unix" or host in known or "[" in word.text or not re.fullmatch(r"[A-Za-z0-9._-]+", host):
        return []
    if re.fullmatch(r"[0-9.]+", host):
        return []
    start = word.start + (1 if word.end - word.start == len(word.text) + 2 else 0)
    return [(start, start + len(host), "127.0.0.1")]


def wrapped(text):
    """What stands around the text: before it and behind it."""
    tops = [words for around, words in directives(text) if not around]
    names = {words[0].text for words in tops}
    if names & {"http", "stream", "mail"} or "events" in names:
        return ("" if "events" in names else "events {}\n", "")
    stream = any(words[0].text in ("ssl_preread", "proxy_timeout", "proxy_protocol") for _, words in directives(text))
    if names & {"server", "upstream", "map", "geo", "log_format", "limit_req_zone", "split_clients", "types",
                "proxy_cache_path", "fastcgi_cache_path", "limit_conn_zone", "server_names_hash_bucket_size"}:
        locations = any(words[0].text == "location" for _, words in directives(text))
        return (f"events {{}}\n{'stream' if stream and not locations else 'http'} {{\n", "\n}\n")
    if names and names <= MAIN:
        return ("events {}\n", "")
    if names & {"listen", "server_name", "location"}:
        return ("events {}\nhttp { server {\n", "\n} }\n")
    if names & LOCATION_ONLY or any(name.startswith(("fastcgi_param", "proxy_set")) for name in names):
        return ("events {}\nhttp { server { location / {\n", "\n} } }\n")
    return ("events {}\nhttp {\n", "\n}\n")


def ask(binary, place, jobs):
    command = [binary, "-t", "-p", str(place.folder) + "/", "-c", str(place.folder / "conf/nginx.conf"), "-e", "stderr"]
    environment = {**os.environ, "TRIED": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, env=environment)
    except subprocess.TimeoutExpired:
        return None, ["it does not end"]
    errors = [line for line in done.stderr.splitlines() if re.search(r"\[(emerg|alert|crit)\]", line)]
    return done.returncode == 0, errors or done.stderr.splitlines()[-1:]


def compare(path, options):
    text = path.read_bytes().decode("latin-1")
    with tempfile.TemporaryDirectory(prefix="configs-") as folder:
        place = Place(pathlib.Path(folder) / "p")
        before, behind = wrapped(text)
        whole = before + adapted(text, place) + behind
        (place.folder / "conf/nginx.conf").write_bytes(whole.encode("latin-1"))
        theirs = ask(options.nginx, place, options)
        ours = ask(options.ours, place, options)
        short = lambda lines: [line.replace(str(place.folder), "") for line in lines]
        return path, (theirs[0], short(theirs[1])), (ours[0], short(ours[1]))


def features(errors):
    """The directives that are not built yet, if nothing else is wrong."""
    missing = set()
    for line in errors:
        if not NOT_BUILT.search(line):
            return None
        found = re.search(r'directive "([^"]+)"|"([^"]+)"', line)
        missing.add(next(filter(None, found.groups())) if found else line)
    return missing


def make_keys():
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = f"{folder}/k", f"{folder}/c"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "30",
                        "-keyout", key, "-out", certificate], check=True, capture_output=True)
        KEYS["key"], KEYS["certificate"] = pathlib.Path(key).read_bytes(), pathlib.Path(certificate).read_bytes()
        made = subprocess.run(["openssl", "genpkey", "-genparam", "-algorithm", "DH", "-pkeyopt", "group:ffdhe2048"],
                              capture_output=True)
        KEYS["dhparam"] = made.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--nginx", required=True)
    parser.add_argument("--ours", required=True)
    parser.add_argument("--shortest", type=int, default=0, help="only so many of the files, the shortest ones")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--least", type=int, default=0, help="fail when fewer files than this agree")
    parser.add_argument("--verbose", action="store_true", help="what both say of every file")
    options = parser.parse_args()
    files = sorted((path for path in options.folder.rglob("*") if path.is_file()), key=lambda p: (p.stat().st_size, p))
    files = files[:options.shortest or len(files)]
    make_keys()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda path: compare(path, options), files))
    both, neither, apart, disagree, missing = 0, 0, [], [], {}
    for path, (nginx, theirs), (own, ours) in results:
        if options.verbose:
            print(f"{path.name}\n  nginx: {nginx} {theirs}\n  ours:  {own} {ours}")
        if nginx == own:
            both, neither = both + bool(own), neither + (not own)
        elif nginx and (names := features(ours)) is not None:
            apart.append(path)
            for name in names:
                missing.setdefault(name, []).append(path)
        else:
            disagree.append((path, nginx, theirs, own, ours))
    for path, nginx, theirs, own, ours in disagree:
        print(f"\n{path.name}\n  nginx {'accepts' if nginx else 'refuses'}, ours {'accepts' if own else 'refuses'}")
        for line in (theirs if own else [line for line in ours if not NOT_BUILT.search(line)])[:4]:
            print(f"  {line}")
    print("\nrefused for what is not built yet, by directive:")
    for name, where in sorted(missing.items(), key=lambda item: (-len(item[1]), item[0])):
        print(f"  {len(where):4} {name}")
    agree = both + neither
    print(f"\n{len(results)} files: {agree} agree ({both} accepted, {neither} refused), {len(apart)} need what is not built"
          f" yet, {len(disagree)} disagree")
    sys.exit(1 if agree + len(apart) < options.least else 0)


if __name__ == "__main__":
    main()
