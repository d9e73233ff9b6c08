"""Receives metrics by OTLP over HTTP, decoded by OpenTelemetry's own message types.

The first line printed is the port; then one JSON object for each export. Answers with what is in
the file that is named, if there is one: a status.
"""

import json
import pathlib
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service
from opentelemetry.proto.metrics.v1 import metrics_pb2

ANSWER = pathlib.Path(sys.argv[1])


def point(data):
    labels = {pair.key: pair.value.string_value for pair in data.attributes}
    told = {"labels": labels, "start": data.start_time_unix_nano, "time": data.time_unix_nano}
    if isinstance(data, metrics_pb2.HistogramDataPoint):
        counts, below = [], 0
        assert len(data.bucket_counts) == len(data.explicit_bounds) + 1
        for count in data.bucket_counts:
            below += count
            counts.append(below)
        assert below == data.count
        told.update(count=data.count, sum=data.sum, bounds=list(data.explicit_bounds), below=counts)
    else:
        assert data.WhichOneof("value") == "as_double"
        told["value"] = data.as_double
    return told


def metric(data):
    kind = data.WhichOneof("data")
    body = getattr(data, kind)
    if kind != "gauge":
        assert body.aggregation_temporality == metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
    if kind == "sum":
        assert body.is_monotonic
    points = [point(one) for one in body.data_points]
    return {"unit": data.unit, "help": data.description, "kind": kind, "points": points}


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"] == "application/x-protobuf"
        request = service.ExportMetricsServiceRequest.FromString(body)
        (resource,) = request.resource_metrics
        (scope,) = resource.scope_metrics
        told = {
            "path": self.path,
            "authorization": self.headers.get("Authorization"),
            "resource": {a.key: a.value.string_value for a in resource.resource.attributes},
            "metrics": {one.name: metric(one) for one in scope.metrics},
        }
        assert len(told["metrics"]) == len(scope.metrics), "a name is there twice"
        status = int(ANSWER.read_text()) if ANSWER.exists() else 200
        answer = service.ExportMetricsServiceResponse().SerializeToString()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        print(json.dumps(told), flush=True)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", int(sys.argv[2])), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
