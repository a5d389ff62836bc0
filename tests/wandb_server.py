"""As much of W&B's server as `wandb sync` asks for, on this machine: it keeps the rows of every run."""

import gzip
import json
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """A context manager; `rows` by run, as they would be shown."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rows: dict[str, list[dict]] = defaultdict(list)
        self.summaries: dict[str, dict] = {}
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """W&B hangs up when it has what it wants."""

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self._read()
        self._answer({})

    def do_POST(self) -> None:
        data = self._read()
        if self.path.endswith("/graphql"):
            self._answer({"data": self._data(**json.loads(data))})
        elif self.path.endswith("/file_stream"):
            run, files = self.path.split("/")[-2], json.loads(data).get("files") or {}
            if rows := files.get("wandb-history.jsonl"):
                self.server.rows[run][rows["offset"] :] = map(json.loads, rows["content"])
            if summary := files.get("wandb-summary.json"):
                self.server.summaries[run] = json.loads(summary["content"][-1])
            self._answer({})
        else:
            self._answer({})

    def _data(self, query: str, variables: dict | None = None, **_: object) -> dict:
        name = re.search(r"(?:query|mutation)\s+(\w+)", query)[1]
        project = {"id": "P", "name": "pgx", "entity": {"id": "E", "name": "me"}}
        run = (variables or {}).get("name")
        rows = self.server.rows.get(run, [])
        if name == "UpsertBucket":
            bucket = {"id": "R", "name": run, "displayName": run, "config": "{}", "historyLineCount": len(rows)}
            return {"upsertBucket": {"bucket": bucket | {"project": project}, "inserted": not rows}}
        if name == "RunResumeStatus":
            known = {"id": "R", "name": run, "displayName": run, "config": "{}", "tags": [], "eventsTail": "[]",
                     "logLineCount": 0, "eventsLineCount": 0, "wandbConfig": '{"t": 1}', "historyLineCount": len(rows),
                     "historyTail": json.dumps([json.dumps(rows[-1])] if rows else []),
                     "summaryMetrics": json.dumps(self.server.summaries.get(run, {}))}  # fmt: skip
            return {"model": project | {"bucket": known if rows else None}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.server.address}/upload"} for file in variables["files"]]
            return {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": files}}
        if name == "Viewer":
            return {"viewer": {"id": "V", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        return {}

    def _read(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def _answer(self, x: dict) -> None:
        data = json.dumps(x).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
