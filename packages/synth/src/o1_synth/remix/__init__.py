"""ReMixer: training data for reasoning-intensive retrieval, made from documents alone.

ReasonEmbed, section 3 (arXiv 2510.08252). Each step leads from files to a file, and is one job:

```
clean      documents                       -> documents of the domain (yes or no; optional)
write      documents                       -> queries, and which document each was written from
mine       queries, corpus or run          -> candidates, without the document of the query
annotate   queries, candidates, corpus     -> examples: candidates with a score from 1 to 5
```
"""

from o1_synth.remix.annotate import annotate
from o1_synth.remix.clean import clean
from o1_synth.remix.domain import Domain, read_domain
from o1_synth.remix.mine import mine, mine_files
from o1_synth.remix.write import write

__all__ = ["Domain", "annotate", "clean", "mine", "mine_files", "read_domain", "write"]
