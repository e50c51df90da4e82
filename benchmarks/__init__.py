"""course_lib against its peers, in one process."""
