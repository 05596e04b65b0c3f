"""The Open Inference Protocol and what carries it: messages, codecs, HTTP/1.1, error kind -> gRPC and HTTP status.

Knows no servers, clients or models.
"""
