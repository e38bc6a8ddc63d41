# Of both a list and a number must have come with their types.
assert isinstance(context["count"], int), context
total = sum(context["numbers"])
result = {"sum": total, "average": total / count}
