#!/usr/bin/env python3
"""Uses an IMAP server as a mail program does: STARTTLS, a login, a message stored and read, and many at once."""

import imaplib
import ssl
import sys
import threading

PORT = int(sys.argv[1])
SESSIONS = 50
MESSAGE = b"From: alice@example.org\r\nSubject: hello\r\n\r\nA tide comes in.\r\n"


def connect():
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    client = imaplib.IMAP4("127.0.0.1", PORT, timeout=30)
    client.starttls(trusting)
    return client


def check(what, condition):
    if not condition:
        sys.exit(f"FAILED: {what}")
    print(what)


def refuses_login_in_clear():
    client = imaplib.IMAP4("127.0.0.1", PORT, timeout=30)
    try:
        client.login("alice", "secret")
        return False
    except imaplib.IMAP4.error:
        return True
    finally:
        client.shutdown()


def refuses_wrong_password():
    client = connect()
    try:
        client.login("alice", "wrong")
        return False
    except imaplib.IMAP4.error as error:
        return "Invalid login or password" in str(error)
    finally:
        client.shutdown()


def stores_and_reads():
    client = connect()
    client.login("alice", "secret")
    client.append("INBOX", None, None, MESSAGE)
    client.select("INBOX")
    _, found = client.fetch("1", "(BODY[])")
    client.logout()
    return found[0][1] == MESSAGE


def many_at_once():
    """All sessions are logged in before the first of them goes on."""
    good = []
    together = threading.Barrier(SESSIONS, timeout=60)

    def session():
        client = connect()
        client.login("alice", "secret")
        together.wait()
        status, _ = client.select("INBOX", readonly=True)
        client.logout()
        good.append(status == "OK")

    threads = [threading.Thread(target=session) for _ in range(SESSIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(good) == SESSIONS and all(good)


check("a login in clear is refused", refuses_login_in_clear())
check("a wrong password is refused", refuses_wrong_password())
check("a message is stored and read back", stores_and_reads())
check(f"{SESSIONS} sessions at once", many_at_once())
