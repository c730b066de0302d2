"""A run of `iga fit`: courses, results and folder; and `iga render`, from a model of one."""
