"""Re-scoring by a teacher, by name."""

from raymine.rescore.base import Teacher
from raymine.rescore.cross_encoder import CrossEncoderTeacher, check
from raymine.rescore.stage import Rescore

__all__ = ["CrossEncoderTeacher", "Rescore", "Teacher", "check"]
