"""For Locust: ``locust -f loadtest/locustfile.py --host grpc://127.0.0.1:8001 --model NAME --data FILE …``.

Locust loads this file by its path, outside the package; hence the absolute import.
"""

from nlpdeploy.loadtest.users import OpenLoopUser

__all__ = ["OpenLoopUser"]
