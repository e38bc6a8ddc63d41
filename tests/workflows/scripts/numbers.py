numbers = [3 * n for n in range(1, 5)]
result = {"numbers": numbers, "count": len(numbers)}
print("made", len(numbers))
