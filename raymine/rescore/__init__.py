"""Re-scoring by a teacher, by name."""

from raymine.rescore.base import Teacher
from raymine.rescore.cross_encoder import CrossEncoderTeacher, check
from raymine.rescore.stage import Rescore

TEACHERS = {"cross_encoder": CrossEncoderTeacher}

__all__ = ["TEACHERS", "CrossEncoderTeacher", "Rescore", "Teacher", "check"]
