"""What DOK's API sends and takes, with the service's own names.

Fields that are not known here are ignored, and all but identities may be absent: the service may grow, and may be
otherwise than its public description. Times are aware. A status that is not known here is not an ended one.
"""

from dokrun.api.models.account import (
    Account,
    AuthInfo,
    Member,
    Registry,
    RegistryRequest,
    SshKey,
    SshKeyRequest,
    SshKeyUpdate,
)
from dokrun.api.models.base import (
    Acknowledgement,
    Confidential,
    DownloadUrl,
    Error,
    Meta,
    Model,
    Page,
    Time,
)
from dokrun.api.models.money import (
    BillingDetail,
    BillingInfo,
    Plan,
    UnitPrice,
)
from dokrun.api.models.notifications import (
    NotificationEndpoint,
    NotificationEndpointChange,
    NotificationEndpointRequest,
    NotificationSetting,
    NotificationSettingChange,
    NotificationSettingRequest,
    WebhookTest,
    WebhookTestRequest,
)
from dokrun.api.models.tasks import (
    ENDED,
    Artifact,
    Container,
    ContainerRequest,
    CreateTaskRequest,
    HttpPort,
    LogStream,
    NotificationPreference,
    Ssh,
    Task,
)

__all__ = [
    "ENDED",
    "Account",
    "Acknowledgement",
    "Artifact",
    "AuthInfo",
    "BillingDetail",
    "BillingInfo",
    "Confidential",
    "Container",
    "ContainerRequest",
    "CreateTaskRequest",
    "DownloadUrl",
    "Error",
    "HttpPort",
    "LogStream",
    "Member",
    "Meta",
    "Model",
    "NotificationEndpoint",
    "NotificationEndpointChange",
    "NotificationEndpointRequest",
    "NotificationPreference",
    "NotificationSetting",
    "NotificationSettingChange",
    "NotificationSettingRequest",
    "Page",
    "Plan",
    "Registry",
    "RegistryRequest",
    "Ssh",
    "SshKey",
    "SshKeyRequest",
    "SshKeyUpdate",
    "Task",
    "Time",
    "UnitPrice",
    "WebhookTest",
    "WebhookTestRequest",
]
