"""The teacher's side of the graded exercises: a sandbox, what asks in it, and the marks.

``sandbox`` confines a process, ``runner`` is the program in it, ``process`` watches over it, ``box`` runs a
submission's cells there and asks for its answers, and ``remote`` gives the tests the student's names to call. Nothing
here is imported by the rest of the package; students do not need it.
"""
