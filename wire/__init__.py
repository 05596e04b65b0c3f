"""The Open Inference Protocol alone: messages, codecs, and error kind -> gRPC and HTTP status.

Knows no servers, clients or models.
"""
