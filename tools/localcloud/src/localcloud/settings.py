"""The settings of one server process."""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


class StartError(RuntimeError):
    """The server can't start; the text is a sentence for its user."""


@dataclass(frozen=True)
class Settings:
    """Settings of one server process.

    `wait_scale` multiplies Step Functions waits and retry intervals (1 is real time).
    `retry_base_s` is the delay before the first retry of asynchronous invocations, rule targets and stream batches.
    `express_timeout_s` is the longest that an execution of an Express state machine runs (AWS: five minutes).
    `python` needs awslambdaric and boto3.
    """

    port: int
    data_dir: Path
    tmp_dir: Path
    persist: bool = False
    auth: bool = True
    region: str = "us-east-1"
    max_environments: int = 4
    python: str = sys.executable
    wait_scale: float = 1.0
    express_timeout_s: float = 300.0
    retry_base_s: float = 1.0
    metrics_interval_s: float = 60.0
    log_level: str = "INFO"

    @property
    def endpoint(self) -> str:
        """The URL that SDK clients and functions use."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def live_dir(self) -> Path:
        """Where MiniStack writes; temporary without `persist`."""
        return (self.data_dir if self.persist else self.tmp_dir) / "live"

    def environment(self) -> dict[str, str]:
        """The environment variables that MiniStack reads when it is imported."""
        flag = "1" if self.persist else "0"
        return {
            "AUTH": "true" if self.auth else "false",
            "AWS_DEFAULT_REGION": self.region,
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "IOT_MTLS_ENABLED": "0",
            "LAMBDA_ASYNC_RETRY_BASE_SECONDS": str(self.retry_base_s),
            "LAMBDA_EXECUTOR": "local",
            "LAMBDA_WARM_TTL_SECONDS": "120",  # an idle process holds 40 MB
            "LOG_LEVEL": self.log_level,
            "MINISTACK_HOST": "127.0.0.1",
            "MINISTACK_REGION": self.region,
            "PERSIST_STATE": flag,
            "S3_DATA_DIR": str(self.live_dir / "s3"),
            "S3_PERSIST": flag,
            "SFN_WAIT_SCALE": str(self.wait_scale),
            "SFTP_ENABLED": "0",
            "STATE_DIR": str(self.live_dir / "state"),
            "TMPDIR": str(self.tmp_dir),
        }

    def apply(self) -> None:
        """Set the environment variables; must run before MiniStack is imported."""
        # The user's credentials, profiles and endpoints must reach neither server nor functions.
        for name in [n for n in os.environ if n.startswith(("AWS_", "LAMBDA_", "DOCKER_", "LOCALSTACK_"))]:
            del os.environ[name]
        os.environ.update(self.environment())
        tempfile.tempdir = None  # Python has remembered another TMPDIR
