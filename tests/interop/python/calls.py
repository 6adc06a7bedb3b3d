#!/usr/bin/env python3
"""requests with its pool posts each message of a folder, with the pause before it in milliseconds from a file:
calls.py URL CERTIFICATE KEY ANCHORS FOLDER PAUSES. A line for each call that failed, then their number. Some calls go over
a connection of their own, which offers the TLS session of the one before it."""
import http.client
import pathlib
import ssl
import sys
import time
import urllib.parse

import requests

URL, CERTIFICATE, KEY, ANCHORS, FOLDER, PAUSES = sys.argv[1:]
TYPE = {"Content-Type": "application/soap+xml; charset=UTF-8"}
AT = urllib.parse.urlsplit(URL)
context = ssl.create_default_context(cafile=ANCHORS)
context.load_cert_chain(CERTIFICATE, KEY)
context.maximum_version = ssl.TLSVersion.TLSv1_2  # whose session is there before the first byte of an answer
kept = None


def pooled(session, message):
    answer = session.post(URL, data=message, headers=TYPE, timeout=60)
    return answer.status_code, answer.text


class Resuming(http.client.HTTPSConnection):
    def connect(self):
        http.client.HTTPConnection.connect(self)
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host, session=kept)


def resumed(message):
    global kept
    connection = Resuming(AT.hostname, AT.port, timeout=60)
    connection.request("POST", AT.path, body=message, headers=TYPE)
    answer = connection.getresponse()
    text = answer.read().decode()
    kept = connection.sock.session if connection.sock else kept
    connection.close()
    return answer.status, text


session = requests.Session()
session.trust_env = False
session.cert = (CERTIFICATE, KEY)
session.verify = ANCHORS
pauses = [int(pause) for pause in pathlib.Path(PAUSES).read_text().split(",")]
failed = 0
for number, pause in enumerate(pauses):
    time.sleep(pause / 1000)
    message = (pathlib.Path(FOLDER) / f"{number}.xml").read_bytes()
    try:
        status, text = resumed(message) if number % 5 == 4 and pause == 0 else pooled(session, message)
        if status != 200 or "ResponseStatusType:Success" not in text:
            raise ValueError(f"HTTP {status}")
    except Exception as error:  # noqa: BLE001: whatever a library raises is the result of the call
        failed += 1
        print(f"call {number} after {pause} ms: {type(error).__name__}: {error}", flush=True)
print(f"calls {len(pauses)} failed {failed}")
