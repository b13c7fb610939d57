"""The exceptions autowarmup raises on purpose.

::

    AutowarmupError
    ├── InputError (also ValueError)   what the caller passed can't be used; raised before the first trial
    │   └── SpaceError                 a search space that can't be read or makes no sense
    ├── StudyError                     a study folder that can't be used
    │   ├── StudyMismatchError         it holds a study of another configuration
    │   └── StudyLockedError           another process is working on it
    ├── ClusterError                   a Ray cluster that can't be used, or was lost
    ├── TaskFailedError                the user's code failed in a way that no schedule explains
    ├── TrackingError                  the MLflow server can't be used
    ├── RemoteServiceError             a service of studies that can't be reached, or refuses
    └── AppliedRateError               a training applied another learning rate than its schedule's

Every message says what was wrong, the value received and what is allowed.
"""


class AutowarmupError(Exception):
    """Base of everything autowarmup raises on purpose."""


class InputError(AutowarmupError, ValueError):
    """What the caller passed can't be used. Raised before the first trial."""


class SpaceError(InputError):
    """A search space that can't be read or makes no sense."""


class StudyError(AutowarmupError):
    """A study folder that can't be used."""


class StudyMismatchError(StudyError):
    """The folder holds a study of another configuration: it is refused, never mixed."""


class StudyLockedError(StudyError):
    """Another process is working on the study: there is one writer."""


class TaskFailedError(AutowarmupError):
    """The user's code raised in a way that no schedule explains; the same call goes on when the cause is mended."""


class ClusterError(AutowarmupError):
    """The Ray cluster can't be used, or was lost: the same call goes on with the study when it can be."""


class TrackingError(AutowarmupError):
    """The MLflow server or store can't be used."""


class RemoteServiceError(AutowarmupError):
    """A service of studies can't be reached, or refuses what it is asked for."""


class AppliedRateError(AutowarmupError):
    """A training applied another learning rate than its schedule's."""


class AppliedRateWarning(UserWarning):
    """The same as a warning."""
