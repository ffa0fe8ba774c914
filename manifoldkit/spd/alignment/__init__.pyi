from .aligner import DomainAligner as DomainAligner
