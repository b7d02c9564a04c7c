"""What people build on a log. Each store is a fold of it (`treering.fold`) and stands alone."""
